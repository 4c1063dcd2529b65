"""Where the text of a setting comes from: the environment, the env file, and files of secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from nexus_auth.domain.errors import ConfigurationError

ENV_FILE_VARIABLE: Final = "NEXUS_AUTH_ENV_FILE"

_PREFIXES: Final = ("NEXUS_AUTH_", "NEXUS_PYLON_")
# Not settings of the table: read by the loader itself, by the development Pylon, by tests.
_OTHER_NAMES: Final = (
    *(ENV_FILE_VARIABLE, "NEXUS_AUTH_REQUIRE_REAL"),
    *("NEXUS_PYLON_DEV_TOKEN", "NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN"),
)
_SERVICE_HOST: Final = "_SERVICE_HOST"
_MAX_SECRET_FILE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The variables of the environment and of the env file. An empty value means unset."""

    environ: Mapping[str, str]
    env_file: Mapping[str, str]
    env_file_name: str

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Reads the env file: the one that the environment names, else `.env` where it exists.

        Raises:
            ConfigurationError: When the file cannot be read, or holds a line about one of our
                settings that cannot.
        """
        named = environ.get(ENV_FILE_VARIABLE)
        path = Path(named or ".env")
        try:
            is_file, problem = path.is_file(), "no such file"
        except OSError as exc:
            # Started with another user's working directory (sudo -u): its file is not meant.
            is_file, problem = False, exc.strerror or "not readable"
        if named and not is_file:
            raise ConfigurationError(
                setting=ENV_FILE_VARIABLE, source="environment", problem=f"{named!r}: {problem}"
            )
        variables = _load_env_file(path) if is_file else {}
        return cls(environ=environ, env_file=variables, env_file_name=str(path))

    def find(self, name: str, *, is_secret: bool) -> tuple[str, str] | None:
        """The text of a setting and the words that say where it came from; None where unset.

        Args:
            name: The environment variable.
            is_secret: Whether `NAME_FILE` may hold the path of a file with the value.

        Raises:
            ConfigurationError: When that file cannot be read or is empty.
        """
        read = ((self.environ, "environment"), (self.env_file, self.env_file_name))
        for values, origin in read:
            if values.get(name):
                return values[name], origin
            path = values.get(f"{name}_FILE") if is_secret else None
            if path:
                return _load_secret(name, path, origin), f"{path}, named by {origin}"
        return None

    def unknown_names(self, settings: Mapping[str, bool]) -> Iterator[str]:
        """A line for each variable with our prefixes that no setting has: most likely misspelt.

        Args:
            settings: The name of every setting, and whether it is a secret.
        """
        import difflib

        known = {*settings, *_OTHER_NAMES, *_service_links(self.environ)}
        known |= {f"{name}_FILE" for name, is_secret in settings.items() if is_secret}
        for name in sorted({*self.environ, *self.env_file} - known):
            if name.startswith(_PREFIXES):
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                yield f"{name} is not a setting{hint}"


def _service_links(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that Kubernetes makes by itself for a Service that is called like us.

    For a Service `nexus-auth` they are NEXUS_AUTH_SERVICE_HOST, NEXUS_AUTH_PORT and several more.
    """
    services = [
        name.removesuffix(_SERVICE_HOST) for name in environ if name.endswith(_SERVICE_HOST)
    ]
    begins = tuple(f"{service}_{kind}" for service in services for kind in ("SERVICE_", "PORT"))
    return (name for name in environ if name.startswith(begins))


def _load_secret(name: str, path: str, origin: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_SECRET_FILE_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else "not ASCII text"
    else:
        if text:
            return text
        # An empty text is no secret, and a file that was named does not mean "not given".
        problem = "it is empty"
    raise ConfigurationError(setting=f"{name}_FILE", source=origin, problem=f"{path!r}: {problem}")


def _load_env_file(path: Path) -> dict[str, str]:
    # Imported only where there is a file to read.
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    def wrong(problem: str) -> ConfigurationError:
        return ConfigurationError(setting=ENV_FILE_VARIABLE, source=str(path), problem=problem)

    try:
        values = dotenv_values(path, interpolate=False)
        with path.open(encoding="utf-8") as file:
            broken = [each.original for each in parse_stream(file) if each.error]
    except (OSError, UnicodeDecodeError) as exc:
        raise wrong(f"not readable: {exc}") from None
    for line in broken:
        # The file may be shared with other programs, whose lines are left alone. One of ours would
        # silently be no setting. It is not repeated, because it may hold a secret.
        if any(prefix in line.string for prefix in _PREFIXES):
            raise wrong(f"line {line.line} cannot be read; expected NAME=VALUE")
    return {name: value for name, value in values.items() if value is not None}
