//! The machine as a whole, through `StateMachine`: what it answers, that it stays deterministic, that
//! its image is its state, and that neither hostile bytes nor flipped bits get past it.

mod corruption;
mod expiry;
mod hostile;
mod image;
mod limits;
mod model;
mod speed;
mod support;
mod transactions;
mod transcript;
mod work;
