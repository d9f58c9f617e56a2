"""What everybody should know before they believe a language model: on first run, and in the help."""


def honesty(endpoint: str = "") -> str:
    """Return the paragraph; `endpoint` is the URL to which the messages go, "" where they stay on this machine."""
    where = (
        f"What you write is sent to {endpoint}; the chats are kept on this machine."
        if endpoint
        else "Everything stays on this machine: nothing that you write leaves it."
    )
    return (
        "A language model makes things up and sounds sure of it. It repeats the biases of the texts that it learned "
        "from, and can say what is wrong, harmful or offensive. Koala is for research: check what matters, and do not "
        f"let it decide about health, money, law or people. {where}"
    )
