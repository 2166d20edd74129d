"""Readers of one room's events: run it by `locust -f locustfile.py --host http://...`."""

from harness.sse_user import SSEUser


class RoomReader(SSEUser):
    """Reads twenty events, leaves, and resumes where it was."""

    path = "/rooms/kitchen/events"
    events_per_connection = 20

    def is_mine(self, frame):
        return b'"room": "kitchen"' in frame.data
