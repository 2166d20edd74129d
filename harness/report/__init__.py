"""Renders verdicts: run folders, summaries, pages, JUnit files and stand-alone tests."""
