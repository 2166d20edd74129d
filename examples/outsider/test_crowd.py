"""Processes that write notes at once."""

from notes import Notes


def test_notes_of_many_processes(crowd):
    crowd(open=Notes, write=Notes.add, processes=4, writes=50, fair=False)


def test_notes_without_patience(crowd):
    crowd(open=lambda path: Notes(path, patience_s=0.0), write=Notes.add, fair=False)
