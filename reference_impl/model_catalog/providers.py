"""The models to choose from: the scripted agent, or a provider's list over HTTP.

HERMES_WEBUI_MODELS_URL is its address; it returns `{"provider": NAME, "models": [NAME, ...]}`.
"""

from __future__ import annotations

import json
import os

from reference_impl.model_catalog.catalog import BUDGET_S, Catalog, catalog_of

SCRIPTED = catalog_of("scripted", "scripted-agent")


def offered_models() -> Catalog:
    """Query the provider, if one is set; may be slow. Raises OSError, ValueError, KeyError."""
    url = os.environ.get("HERMES_WEBUI_MODELS_URL")
    if not url:
        return SCRIPTED
    from urllib.request import urlopen  # noqa: PLC0415 - takes longer to import than all of ours

    with urlopen(url, timeout=10 * BUDGET_S) as answer:  # noqa: S310 - the operator chose it
        offered = json.load(answer)
    return catalog_of(offered["provider"], *offered["models"])
