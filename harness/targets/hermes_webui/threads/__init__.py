"""Adapters of the modules of a hermes-webui checkout, called by threads of explored schedules."""
