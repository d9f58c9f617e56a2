"""Chats out of the store and back: Markdown, JSON Lines, ShareGPT, and what ChatGPT exports."""
