//! One request's way through the cluster, as the gateway sees it.
