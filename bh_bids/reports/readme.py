"""The README.md of a derivatives folder: what lies in it, for one who finds it years later."""

from pathlib import Path

from .svg import write_text

_TEMPLATE = Path(__file__).parent / "templates" / "README.md"


def write_readme(output_dir, *, version=None):
    """Write ``README.md`` unless somebody else's text is there.

    Parameters
    ----------
    output_dir : str or os.PathLike
        The derivatives' root.
    version : str, optional
        The program's version.

    Returns
    -------
    pathlib.Path
        The file; a README.md that this program did not write is left as it is.
    """
    text = _TEMPLATE.read_text(encoding="utf-8")
    path = Path(output_dir) / "README.md"
    if path.exists():
        present = path.read_text(encoding="utf-8", errors="replace")
        if not present.startswith(text.splitlines()[0]):
            return path
    return write_text(path, text.replace("{version}", f" {version}" if version else ""))
