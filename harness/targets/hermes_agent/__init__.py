"""The released package `hermes-agent` as a target."""
