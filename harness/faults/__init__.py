"""Fault injection: faults of processes, disks and files, and a simulated disk."""
