"""Fields of requests that several endpoints have, and refusals that several give."""

from __future__ import annotations

from reference_impl.web.routes import Field

MESSAGE_CHARS_MAX = 1_000_000
DISK = (503, 507)  # a disk or a lock that refuses

ID = "[0-9A-Za-z-][0-9A-Za-z_-]{0,127}"
SESSION_ID = Field("session_id", is_required=True, max_length=128, pattern=ID)
STREAM_ID = Field("stream_id", is_required=True, max_length=64, pattern="[0-9A-Za-z-]+")
KEPT_FIELDS = (
    *(Field("workspace"), Field("model"), Field("model_provider"), Field("profile")),
    Field("enabled_toolsets", "array"),
)
AFTER_EVENT_ID = Field("after_event_id", about="like header Last-Event-ID: `<stream_id>:<seq>`")
