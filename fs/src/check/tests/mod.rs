//! Every kind of damage is found, and found as what it is.
