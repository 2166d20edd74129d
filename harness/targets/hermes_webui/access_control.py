"""The *doors* ability of a hermes-webui server, where a login with the password gives a cookie."""

from __future__ import annotations

from harness.targets.server.access_control import AccessControlAdapter

LOGIN = "/api/auth/login"


class WebuiAccessControlAdapter(AccessControlAdapter):
    """One server after another on a folder."""

    def credentials(self, scheme: str, word: str) -> dict[str, str]:  # noqa: ARG002  there is one
        """Log in; the headers with the cookie, if the login gives one."""
        _, cookie = self.request("POST", LOGIN, {}, {"password": word})
        return {"Cookie": cookie} if cookie else {}
