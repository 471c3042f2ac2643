"""What Pulzar is made of: locks of its Python packages, their audit, and a bill of materials."""
