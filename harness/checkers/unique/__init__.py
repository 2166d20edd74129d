"""unique."""
