"""Real RabbitMQ, real processes, real files."""
