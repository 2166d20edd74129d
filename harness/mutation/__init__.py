"""Known bugs, code mutants, answer mutants, and the blocks of source code."""
