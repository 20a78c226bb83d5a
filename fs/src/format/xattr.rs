//! Values of the items of extended attributes.

/// Largest value of an attribute.
const MAX_VALUE: usize = 65_536;

/// An attribute: value of a [`crate::core::Class::Xattr`] item, but for item 0 of each inode, which holds [`Totals`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// 1 to 255 bytes, namespace included.
    pub name: Vec<u8>,
    /// Bytes in the value.
    pub size: u32,
    /// The value, unless it lies in pieces ([`crate::core::Class::XattrValue`]).
    pub inline: Option<Vec<u8>>,
}

const HEAD: usize = 6;
const INLINE: u8 = 0;
const PIECES: u8 = 1;

impl Attribute {
    /// Bytes of an item that holds its value itself.
    pub fn encoded_len(name: &[u8], value: &[u8]) -> usize {
        HEAD + name.len() + value.len()
    }
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        let value = self.inline.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(Self::encoded_len(&self.name, value));
        out.push(self.name.len() as u8);
        out.push(if self.inline.is_some() { INLINE } else { PIECES });
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.name);
        out.extend_from_slice(value);
        out
    }
    /// The inverse of [`Attribute::encode`].
    pub fn decode(value: &[u8]) -> Option<Self> {
        let name = Self::name_of(value)?.to_vec();
        let size = u32::from_le_bytes(value[2..HEAD].try_into().ok()?);
        let rest = &value[HEAD + name.len()..];
        if size as usize > MAX_VALUE {
            return None;
        }
        let inline = match value[1] {
            INLINE if rest.len() == size as usize => Some(rest.to_vec()),
            PIECES if rest.is_empty() => None,
            _ => return None,
        };
        Some(Self { name, size, inline })
    }
    /// The name in an item's value.
    pub fn name_of(value: &[u8]) -> Option<&[u8]> {
        let len = usize::from(*value.first()?);
        if len == 0 { None } else { value.get(HEAD..HEAD + len) }
    }
}

/// What the attributes of one inode add up to; there is none for an inode without attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attributes.
    pub count: u32,
    /// Bytes of all names, each with its zero byte.
    pub names: u32,
}

impl Totals {
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        [self.count.to_le_bytes(), self.names.to_le_bytes()].concat()
    }
    /// The inverse of [`Totals::encode`].
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (count, names) = value.split_first_chunk::<4>()?;
        Some(Self { count: u32::from_le_bytes(*count), names: u32::from_le_bytes(names.try_into().ok()?) })
    }
}
