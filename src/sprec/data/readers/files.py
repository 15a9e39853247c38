"""Opening what users point at: every fault becomes one line that names the file."""

import json
from pathlib import Path
from typing import Any

from sprec.system.errors import UserError
from sprec.system.paths import require_path


def require_file(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        UserError: it is missing or a folder, or its name is not UTF-8.
    """
    if require_path(path).is_file():
        return path
    raise UserError(f"{path} is {'a folder, a file is needed' if path.is_dir() else 'missing'}")


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        UserError: missing, unreadable, not UTF-8, truncated or otherwise not JSON.
    """
    try:
        return json.loads(require_file(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); is the file complete?") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid JSON: nested too deeply") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read one JSON document that must be an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content
