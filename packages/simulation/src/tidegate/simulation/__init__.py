"""Deterministic simulation of Tidegate's control loop: real cores, modelled shells, every kind of fault, one seed."""
