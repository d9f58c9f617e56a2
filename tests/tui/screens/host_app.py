"""An app that offers the screens what koala-tui offers them, and nothing else."""

from textual.app import App

from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tui.chat_settings import ChatSettings
from tui.config import Config
from tui.model_host import ModelHost
from tui.theme import KOALA_THEME


class HostApp(App):
    def __init__(self, screen=None, *, start=None, target=None, options=None, store=None, config=None):
        super().__init__()
        self.register_theme(KOALA_THEME)
        self.theme = KOALA_THEME.name
        self.first, self.store, self.config = screen, store, config or Config()
        self.host = ModelHost(start, target, options or LoadOptions())
        self.chat_id = None
        self.settings = ChatSettings(Sampling())
        self.said, self.loads, self.opened = [], [], []

    def on_mount(self):
        if self.first is not None:
            self.push_screen(self.first)

    def chat_settings(self):
        return self.settings

    def set_chat_settings(self, settings):
        self.settings = settings

    def load_model(self, target, options):
        self.loads.append((target, options))

    def say(self, text, severity="information"):
        self.said.append((text, severity))
        self.notify(text, severity=severity, markup=False)

    def open_chat(self, chat_id, message_id=None, highlight=""):
        self.opened.append((chat_id, message_id))


def shown(app) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in app.screen._compositor.render_strips())
