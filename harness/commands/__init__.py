"""What can be asked on the command line, one command a file."""
