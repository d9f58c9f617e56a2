"""Weight diffs: a tuned model as its exact difference from its base."""
