"""What each command does; `inpaint_eacps.cli` imports a module of this folder only when its command runs."""
