"""Events: what they say, who may hear them, and their way to web workers and RabbitMQ."""
