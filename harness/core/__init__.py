"""Values of every run: histories, operations, models, promises, verdicts, and statistics."""
