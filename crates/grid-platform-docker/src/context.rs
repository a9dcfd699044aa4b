//! Where the engine is: the settings, `DOCKER_HOST` as the settings give it, Docker contexts and TLS.
