"""All settings, one section per file; `Settings` joins them.

Sources, the later wins: defaults, YAML files, environment (`INPAINT_EACPS_<SECTION>__<FIELD>`), command-line flags.
"""

from shared.settings.model import Settings

__all__ = ["Settings"]
