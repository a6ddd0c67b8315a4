"""What plans and runs show: tables and figures."""
