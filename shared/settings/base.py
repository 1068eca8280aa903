"""The base of every section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; a name it does not know is an error, not a silent default.

    Every field has a description: `config show`, the README's table and `--help` are made from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
