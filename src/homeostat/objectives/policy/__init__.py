"""Policy-gradient objectives."""
