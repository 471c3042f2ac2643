"""A whole Pulzar on one machine: a private RabbitMQ, a master and nodes, as child processes.

`ops/up` is `python -m ops.cluster`; the tests and the benchmark use `Cluster`. Read `cluster.py` first, then
`processes.py` and `rabbitmq.py`. The standard library is enough.
"""

from ops.cluster.cluster import Cluster, Node
from ops.cluster.errors import ClusterError, NotHealthy, ProcessDied
from ops.cluster.installation import Installation
from ops.cluster.rabbitmq import Rabbit

__all__ = ["Cluster", "ClusterError", "Installation", "Node", "NotHealthy", "ProcessDied", "Rabbit"]
