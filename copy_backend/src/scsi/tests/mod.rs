//! The codecs against byte images written down from the standards, against any bytes, and a unit against a target.

mod images;
mod random;
mod units;
