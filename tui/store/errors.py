"""What the store says when it cannot do what was asked."""


class StoreError(Exception):
    """The store failed. The message is one sentence for the user: what, where, what to do."""
