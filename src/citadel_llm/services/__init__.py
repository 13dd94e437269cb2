"""The framework that every Citadel service is built on, and the services that are not the gateway's."""
