//! The field of the groups' order. blst has no safe face for it; this one is as small as threshold
//! signatures need.
#![allow(unsafe_code, reason = "blst gives arithmetic modulo the order as C functions alone")]

use blst::{
    blst_bendian_from_scalar, blst_fr, blst_fr_add, blst_fr_from_scalar, blst_fr_inverse, blst_fr_mul,
    blst_fr_sub, blst_lendian_from_scalar, blst_scalar, blst_scalar_from_bendian, blst_scalar_from_fr,
};
use zeroize::{Zeroize, Zeroizing};

use super::SecretKey;

/// A number modulo the order; wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Scalar(blst_fr);

impl Drop for Scalar {
    fn drop(&mut self) {
        self.0.l.zeroize();
    }
}

impl Scalar {
    pub(super) fn from_u32(value: u32) -> Self {
        let mut bytes = [0; 32];
        bytes[28..].copy_from_slice(&value.to_be_bytes());
        Self::from_reduced(&bytes)
    }

    pub(super) fn of_key(key: &SecretKey) -> Self {
        Self::from_reduced(&key.to_bytes())
    }

    /// A secret key, if it is not zero.
    pub(super) fn to_key(&self) -> Option<SecretKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        let scalar = Zeroizing::new(self.plain());
        // SAFETY: both are valid for the 32 bytes that it reads and writes.
        unsafe { blst_bendian_from_scalar(bytes.as_mut_ptr(), &*scalar) };
        SecretKey::from_bytes(&bytes).ok()
    }

    /// As a factor of points.
    pub(super) fn to_le_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let scalar = Zeroizing::new(self.plain());
        // SAFETY: both are valid for the 32 bytes that it reads and writes.
        unsafe { blst_lendian_from_scalar(bytes.as_mut_ptr(), &*scalar) };
        bytes
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        // SAFETY: as in `with`.
        self.with(other, |out, a, b| unsafe { blst_fr_add(out, a, b) })
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        // SAFETY: as in `with`.
        self.with(other, |out, a, b| unsafe { blst_fr_sub(out, a, b) })
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        // SAFETY: as in `with`.
        self.with(other, |out, a, b| unsafe { blst_fr_mul(out, a, b) })
    }

    /// One divided by this, zero for zero.
    pub(super) fn inverse(&self) -> Self {
        // SAFETY: as in `with`.
        self.with(self, |out, a, _| unsafe { blst_fr_inverse(out, a) })
    }

    /// The pointers are to three values of the type, two of them initialised and none of them
    /// written to but the result: what each of blst's functions asks for.
    fn with(&self, other: &Self, compute: impl FnOnce(*mut blst_fr, *const blst_fr, *const blst_fr)) -> Self {
        let mut out = Self(blst_fr::default());
        compute(&mut out.0, &self.0, &other.0);
        out
    }

    /// Big endian and below the order.
    fn from_reduced(bytes: &[u8; 32]) -> Self {
        let mut scalar = Zeroizing::new(blst_scalar::default());
        let mut out = Self(blst_fr::default());
        // SAFETY: the bytes are 32, and all three values are initialised.
        unsafe {
            blst_scalar_from_bendian(&mut *scalar, bytes.as_ptr());
            blst_fr_from_scalar(&mut out.0, &*scalar);
        }
        out
    }

    fn plain(&self) -> blst_scalar {
        let mut scalar = blst_scalar::default();
        // SAFETY: both values are initialised.
        unsafe { blst_scalar_from_fr(&mut scalar, &self.0) };
        scalar
    }
}
