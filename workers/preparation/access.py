"""The key to a Label Studio server, shown to that server only.

Old tokens are sent as they are; personal access tokens (which look like a JWT) are exchanged for a short-lived one
(https://labelstud.io/guide/access_tokens).
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx

from shared.errors import InputError

#: Access tokens live five minutes; a new one is fetched after four.
_LIFETIME_S = 240.0

Origin = tuple[str, str, int]
#: Sends a JSON body to a URL and gives the JSON answer.
Post = Callable[[str, Mapping[str, str]], bytes]


def origin(url: httpx.URL) -> Origin:
    """Scheme, host and port."""
    return url.scheme, url.host.lower(), url.port or (443 if url.scheme == "https" else 80)


@dataclass
class LabelStudioAccess:
    """The address of a Label Studio server and its token."""

    url: str
    key: str = field(repr=False)
    _token: tuple[str, float] = field(default=("", 0.0), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "LabelStudioAccess | None":
        """From LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY; None unless both are set."""
        url, key = environment.get("LABEL_STUDIO_URL", ""), environment.get("LABEL_STUDIO_API_KEY", "")
        return cls(url.rstrip("/"), key.strip()) if url and key else None

    @property
    def origin(self) -> Origin:
        """Where the token may go."""
        return origin(httpx.URL(self.url))

    def headers(self, target: httpx.URL, post: Post) -> dict[str, str]:
        """The Authorization header for `target`: none unless it is this very server. `post` exchanges the token."""
        if origin(target) != self.origin:
            return {}
        if self.key.count(".") != 2:
            return {"Authorization": f"Token {self.key}"}
        with self._lock:
            token, born = self._token
            if not token or time.monotonic() - born > _LIFETIME_S:
                token = self._exchange(post)
                self._token = (token, time.monotonic())
        return {"Authorization": f"Bearer {token}"}

    def _exchange(self, post: Post) -> str:
        try:
            return str(json.loads(post(f"{self.url}/api/token/refresh", {"refresh": self.key}))["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.url} did not exchange the access token: check LABEL_STUDIO_API_KEY.") from error
