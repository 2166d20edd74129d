"""A hermes-webui checkout as a target: its server, and some of its modules."""
