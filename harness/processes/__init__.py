"""Child processes: pools of adapters, servers, their drivers, and probes from outside."""
