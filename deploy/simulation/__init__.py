"""All four services, several replicas of each, on virtual time with faults: a seed says what goes wrong, and when.

Nothing here is a stand-in for our own code: the services are the real ones, on `shared.memory` behind wires that delay,
lose and repeat as JetStream may. What is simulated is the outside: the wires, the provider, the agents, the users.
"""
