"""Prefect blocks: the hub's secrets where Prefect keeps secrets; each makes a client and nothing more."""
