//! Health: the request's own check, asked at the published port, or else what the image's HEALTHCHECK says.
