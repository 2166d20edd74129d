"""The *doors* ability of a hermes-webui server: who knows the password logs in for a cookie."""

from __future__ import annotations

from harness.targets.server.access_control import DoorsAdapter

LOGIN = "/api/auth/login"


class WebuiDoorsAdapter(DoorsAdapter):
    """One server after another on a folder."""

    def credentials(self, scheme: str, word: str) -> dict[str, str]:  # noqa: ARG002  there is one
        """Log in; the cookie, if that gives one."""
        _, cookie = self.asked("POST", LOGIN, {}, {"password": word})
        return {"Cookie": cookie} if cookie else {}
