"""What obeys a plan: the loader, the callback that carries updates out, and what keeps a run whole and cheap."""
