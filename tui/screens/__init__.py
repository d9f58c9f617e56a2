"""The screens of the app; each has its style beside it."""
