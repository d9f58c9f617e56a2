import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Everything that the app remembers lies in a folder of the test's own."""
    monkeypatch.setenv("KOALA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
