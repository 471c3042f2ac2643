"""The messages in `pulzar.dead`: looked at, sent again, dropped."""
