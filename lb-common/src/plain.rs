//! Values that are their bytes.

/// Plain data: `repr(C)`, no padding, and every bit pattern is a value.
///
/// # Safety
/// The implementor has exactly these properties; reading it from and writing it to bytes is then sound.
pub unsafe trait Plain: Copy + Sized + 'static {
    /// The value's bytes, as they stand in a map.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: by the trait's contract there is no padding, so every byte is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that stands in the bytes of a map; `None` unless there are exactly as many as it has.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == size_of::<Self>()).then(|| {
            // SAFETY: the length was compared, every bit pattern is a value, and the read may be unaligned.
            unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
        })
    }
}
