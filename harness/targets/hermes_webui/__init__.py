"""hermes_webui."""
