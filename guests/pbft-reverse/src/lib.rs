//! moult-pbft-reverse
