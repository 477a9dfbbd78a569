//! Who is believed: the packed keys, how many of them must have signed a manifest, and the version below which none
//! is taken. Bytes in, verdict out. Keys and signatures are minisign's (jedisct1.github.io/minisign, "Signature format").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most keys that an archive may trust: they travel to the store in one packet.
pub const MAX_KEYS: usize = 32;
/// The largest signature file that is read, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 64 << 10;
/// What is appended to a manifest's name for its signatures.
pub const SUFFIX: &str = ".minisig";
/// Signatures that are looked at: a server must not choose for how long a boot computes.
const MAX_SIGNATURES: usize = 64;
/// What every signature begins with.
const COMMENT: &str = "untrusted comment:";

/// The number of a key as minisign prints it, in hexadecimal digits. It tells keys apart and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub u64);

impl KeyId {
    /// The number in a decoded key or signature: eight bytes, the least first, behind the algorithm's two.
    fn within(decoded: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(decoded.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl TryFrom<String> for KeyId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// The numbers of several keys, for a sentence.
pub fn listed(keys: &[KeyId]) -> String {
    keys.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

/// A public key: one line of base64 that decodes to a minisign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(String);

impl Key {
    /// Reads a public key file: a comment, then the key; or the key alone.
    pub fn parse(file: &str) -> Option<Self> {
        let mut lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(COMMENT));
        let line = lines.next().filter(|_| lines.next().is_none())?;
        PublicKey::from_base64(line).ok()?;
        Some(Self(line.to_owned()))
    }

    /// Its number.
    pub fn id(&self) -> KeyId {
        // `parse` saw to it that it decodes.
        STANDARD.decode(&self.0).ok().and_then(|decoded| KeyId::within(&decoded)).unwrap_or(KeyId(0))
    }

    /// The line of base64.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 bytes that verify, whatever number is written before them.
    fn material(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.0).ok()?.get(10..).map(<[u8]>::to_vec)
    }

    fn verifies(&self, manifest: &[u8], signature: &Signature) -> bool {
        PublicKey::from_base64(&self.0).is_ok_and(|key| key.verify(manifest, signature, false).is_ok())
    }
}

/// One of the signatures of a signature file.
pub struct Signed {
    /// Whose it says it is.
    pub key: KeyId,
    /// Whether it is over the BLAKE2b hash of the manifest; minisign's legacy kind is not, and does not count.
    pub prehashed: bool,
    /// Its four lines, as they are in the file.
    pub text: String,
    signature: Signature,
}

impl Signed {
    /// What the signer wrote beside the signature; as true as the signature.
    pub fn comment(&self) -> &str {
        self.signature.trusted_comment()
    }

    fn parse(lines: &[&str]) -> Option<Self> {
        let text = lines.join("\n");
        let signature = Signature::decode(&text).ok()?;
        let decoded = STANDARD.decode(lines.get(1)?).ok()?;
        Some(Self { key: KeyId::within(&decoded)?, prehashed: decoded.starts_with(b"ED"), text, signature })
    }
}

/// The signatures of a signature file: one, as minisign writes it, or several one behind another. What cannot be read
/// as a signature is left out.
pub fn signatures(file: &[u8]) -> Vec<Signed> {
    if file.len() > MAX_SIGNATURE_BYTES {
        return Vec::new();
    }
    let lines: Vec<&str> = std::str::from_utf8(file).unwrap_or_default().lines().collect();
    let beginnings = (0..lines.len()).filter(|at| lines.get(*at).is_some_and(|line| line.starts_with(COMMENT)));
    beginnings.take(MAX_SIGNATURES).filter_map(|at| Signed::parse(lines.get(at..at + 4)?)).collect()
}

/// Why a manifest does not count as signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignatureFault {
    /// There is no signature file.
    Missing,
    /// The signature file holds no signature.
    Unreadable,
    /// None of the packed keys signed it.
    Foreign {
        /// Who did, as far as the file says.
        keys: Vec<KeyId>,
    },
    /// A packed key's signature is of other bytes: manifest or signature were altered.
    Altered {
        /// The key.
        key: KeyId,
    },
    /// A packed key's signature is of minisign's legacy kind.
    Legacy {
        /// The key.
        key: KeyId,
    },
    /// Some of the keys that are needed did not sign it.
    TooFew {
        /// Who did.
        keys: Vec<KeyId>,
        /// How many must.
        needed: u8,
    },
}

/// Why keys, threshold and floor cannot be packed together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorFault {
    /// Not a public key.
    #[error("{0} is not a public minisign key (a comment line, then one line of base64)")]
    NotAKey(String),
    /// The same key twice, which would count as two signers.
    #[error("{0} and {1} are the same key: it counts once, so name it once")]
    SameKey(String, String),
    /// More than [`MAX_KEYS`].
    #[error("there are {0} keys, and at most {MAX_KEYS} can be trusted")]
    TooMany(usize),
    /// A threshold that nothing or everything meets.
    #[error("the threshold is {needed}, and must be from 1 to the number of keys, which is {keys}")]
    Threshold {
        /// Signatures that are asked for.
        needed: u8,
        /// Keys that are there.
        keys: usize,
    },
    /// Without a signature a server could write any version into a manifest.
    #[error("a least version means nothing without a key, since nobody vouches for an unsigned manifest's version")]
    FloorWithoutKey,
}

/// What an archive trusts. Made of files of the archive alone: nothing on a command line can change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchors {
    keys: Vec<Key>,
    needed: u8,
    min_version: Option<u64>,
}

impl Anchors {
    /// Checks public key files (name, content) and what is asked of their signatures: `needed` of them, 1 if nothing is
    /// said, on manifests of at least `min_version`.
    pub fn new(files: &[(&str, &[u8])], needed: Option<u8>, min_version: Option<u64>) -> Result<Self, AnchorFault> {
        if files.len() > MAX_KEYS {
            return Err(AnchorFault::TooMany(files.len()));
        }
        let mut keys: Vec<(&str, Key)> = Vec::new();
        for (name, content) in files {
            let key = std::str::from_utf8(content).ok().and_then(Key::parse);
            let key = key.ok_or_else(|| AnchorFault::NotAKey((*name).to_owned()))?;
            if let Some((first, _)) = keys.iter().find(|(_, other)| other.material() == key.material()) {
                return Err(AnchorFault::SameKey((*first).to_owned(), (*name).to_owned()));
            }
            keys.push((name, key));
        }
        let keys: Vec<Key> = keys.into_iter().map(|(_, key)| key).collect();
        let possible = 1..=keys.len();
        if let Some(needed) = needed.filter(|needed| !possible.contains(&usize::from(*needed))) {
            return Err(AnchorFault::Threshold { needed, keys: keys.len() });
        }
        if min_version.is_some() && keys.is_empty() {
            return Err(AnchorFault::FloorWithoutKey);
        }
        Ok(Self { keys, needed: needed.unwrap_or(1), min_version })
    }

    /// Whether only signed manifests count.
    pub fn demand_signatures(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The keys, in the order of their files.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many of the keys must have signed.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// The same for a layer: versions are counted by image, so the floor of the one says nothing of another.
    pub fn without_floor(self) -> Self {
        Self { min_version: None, ..self }
    }

    /// The least version that is booted.
    pub fn min_version(&self) -> Option<u64> {
        self.min_version
    }

    /// The keys whose signatures of these very bytes are in `file`, if they are enough. Of several signatures by one
    /// key one counts.
    pub fn signers(&self, manifest: &[u8], file: &[u8]) -> Result<Vec<KeyId>, SignatureFault> {
        let signatures = signatures(file);
        let by = |key: &&Key| {
            let id = key.id();
            signatures.iter().any(|signed| signed.key == id && key.verifies(manifest, &signed.signature))
        };
        let signers: Vec<KeyId> = self.keys.iter().filter(by).map(Key::id).collect();
        if signers.len() >= usize::from(self.needed.max(1)) {
            return Ok(signers);
        }
        Err(self.fault(&signatures, signers))
    }

    /// What is wrong where `signers` are too few, said of what came nearest.
    fn fault(&self, signatures: &[Signed], signers: Vec<KeyId>) -> SignatureFault {
        /// Strangers that are named.
        const NAMED: usize = 4;
        if !signers.is_empty() {
            return SignatureFault::TooFew { keys: signers, needed: self.needed };
        }
        let packed = |signed: &&Signed| self.keys.iter().any(|key| key.id() == signed.key);
        match signatures.iter().find(packed) {
            Some(signed) if signed.prehashed => SignatureFault::Altered { key: signed.key },
            Some(signed) => SignatureFault::Legacy { key: signed.key },
            None if signatures.is_empty() => SignatureFault::Unreadable,
            None => SignatureFault::Foreign { keys: signatures.iter().map(|signed| signed.key).take(NAMED).collect() },
        }
    }

    /// The floor, where `version` is below it.
    pub fn floor_above(&self, version: u64) -> Option<u64> {
        self.min_version.filter(|floor| version < *floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with Debian's minisign 0.11 over the four bytes `test`.
    const KEY_A: &str = "untrusted comment: minisign public key 4E0B0E404B35103F\nRWQ/EDVLQA4LTn/ucE7kWG1ZWIcEHA8YvRHiQNu9AoFOfYfrgNQEqBA1\n";
    const BY_A: &str = "untrusted comment: signature from minisign secret key\n\
RUQ/EDVLQA4LTuSXYLUOE55uPn56+Fr3JZO6MGj3HCwP+7l7MiVQjg9mFd/FYBvUtsNvgOjDQjnvHtxGSf42YIfQpvtBae2KAw8=\n\
trusted comment: signed by a\n\
DpNcKSdiMgSxfj5MM9pBdFZwnSl297pKvk/24DJHbn/jLCt59O0td0zUhNl8n3AOFky7EeszbtrdM1+m0L6SAA==\n";
    const KEY_B: &str = "untrusted comment: minisign public key 9F62DAE9781A1343\nRWRDExp46dpin49QdHHcAoISkDwQrygB+gZyjeF/9ORzoAuR+7rzq6u1\n";
    const BY_B: &str = "untrusted comment: signature from minisign secret key\n\
RURDExp46dpinxyw74FEiDlTgz51bFSjy3cydxGhM19Qkqh2hTDLjztjGoCVYIrEm7x7vEaJWEH8YLM7nEW5rEjg5rDlrZH26Q4=\n\
trusted comment: signed by b\n\
Xcj5ifAkQUtjuaUX2hYLtdGPB0OVsO3/OEzBlL1bIOMYzHJuC/8ZZ6XNPuKpYbT8PD9ksf46cIAJ/MH+DhcNDw==\n";
    const OLD_BY_A: &str = "untrusted comment: signature from minisign secret key\n\
RWQ/EDVLQA4LTqPzjLqBKn/69TQIiMvcSpmF2ST3nozYrf4RlRnzPUjrJEeMrQVciw1FBDAPp/MQx0XcADqomLjzcZ0KqFWoyg4=\n\
trusted comment: old\n\
zdaJkGLFkTO7nppXsT+lg6jH9mhz5FaY81Rqeavu5J2uBr4QiBsVJzGgYAgn2AoO5LWVaZiqvjJokLalB2LQCg==\n";
    const A: KeyId = KeyId(0x4E0B_0E40_4B35_103F);
    const B: KeyId = KeyId(0x9F62_DAE9_781A_1343);

    fn anchors(keys: &[&str], needed: u8) -> Anchors {
        let names = ["a.pub", "b.pub", "c.pub"];
        let files: Vec<_> = names.into_iter().zip(keys.iter().map(|key| key.as_bytes())).collect();
        Anchors::new(&files, Some(needed), None).unwrap()
    }

    #[test]
    fn any_one_packed_key_is_enough_where_nothing_else_is_said() {
        for (file, signers) in
            [(BY_A.to_owned(), vec![A]), (BY_B.to_owned(), vec![B]), (format!("{BY_B}{BY_A}"), vec![A, B])]
        {
            assert_eq!(anchors(&[KEY_A, KEY_B], 1).signers(b"test", file.as_bytes()), Ok(signers));
        }
        assert_eq!(anchors(&[KEY_B], 1).signers(b"test", format!("{BY_A}\n\n{BY_B}").as_bytes()), Ok(vec![B]));
    }

    #[test]
    fn a_threshold_counts_keys_and_not_signatures() {
        let both = anchors(&[KEY_A, KEY_B], 2);
        assert_eq!(both.signers(b"test", format!("{BY_A}{BY_B}").as_bytes()), Ok(vec![A, B]));
        let too_few = |keys| Err(SignatureFault::TooFew { keys, needed: 2 });
        assert_eq!(both.signers(b"test", BY_A.as_bytes()), too_few(vec![A]));
        assert_eq!(both.signers(b"test", BY_A.repeat(9).as_bytes()), too_few(vec![A]));
        let broken = BY_B.replace("signed by b", "signed by c");
        assert_eq!(both.signers(b"test", format!("{BY_A}{broken}").as_bytes()), too_few(vec![A]));
    }

    #[test]
    fn what_is_wrong_with_a_signature_is_told_apart() {
        let fault = |manifest: &[u8], file: &str| anchors(&[KEY_A], 1).signers(manifest, file.as_bytes()).unwrap_err();
        assert_eq!(fault(b"test", BY_B), SignatureFault::Foreign { keys: vec![B] });
        assert_eq!(fault(b"Test", BY_A), SignatureFault::Altered { key: A });
        assert_eq!(fault(b"test", &BY_A.replace("signed by a", "signed by A")), SignatureFault::Altered { key: A });
        assert_eq!(fault(b"test", OLD_BY_A), SignatureFault::Legacy { key: A });
        for nothing in ["", "<html>", COMMENT, &BY_A[..90], &" ".repeat(MAX_SIGNATURE_BYTES + 1)] {
            assert_eq!(fault(b"test", nothing), SignatureFault::Unreadable, "{nothing}");
        }
        assert_eq!(anchors(&[KEY_A], 1).signers(b"test", b"\xff"), Err(SignatureFault::Unreadable));
    }

    #[test]
    fn no_file_makes_it_panic() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        let good = [KEY_A, BY_A, OLD_BY_A, BY_B].concat().into_bytes();
        let mut read = 0;
        for _ in 0..5000 {
            let mut file = good.clone();
            for _ in 0..draw(6) {
                let at = draw(file.len());
                match draw(3) {
                    0 => file.truncate(at),
                    1 => file.insert(at, b"\n=: \xff"[draw(5)]),
                    _ => file[at] ^= 1 << draw(8),
                }
                file.push(b'\n');
            }
            read += signatures(&file).len();
            let _ = Key::parse(&String::from_utf8_lossy(&file));
        }
        assert!(read > 1000, "hardly anything was read, so hardly anything was tried");
    }

    #[test]
    fn no_byte_of_a_signature_can_be_changed() {
        let trusting = anchors(&[KEY_A], 1);
        let begins = BY_A.find('\n').unwrap() + 1;
        for at in begins..BY_A.trim_end().len() {
            let mut file = BY_A.as_bytes().to_vec();
            file[at] ^= 1;
            assert!(trusting.signers(b"test", &file).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_not_packed() {
        let new = |keys: &[(&str, &str)], needed, floor| {
            let files: Vec<_> = keys.iter().map(|(name, key)| (*name, key.as_bytes())).collect();
            Anchors::new(&files, needed, floor)
        };
        let (a, b) = (("a.pub", KEY_A), ("b.pub", KEY_B));
        let renumbered = KEY_A.replace("RWQ/EDVL", "RWQ/EDVM");
        assert_eq!(new(&[("c", "untrusted comment: none\n")], None, None), Err(AnchorFault::NotAKey("c".into())));
        assert_eq!(new(&[("c", BY_A)], None, None), Err(AnchorFault::NotAKey("c".into())));
        let same = || Err(AnchorFault::SameKey("a.pub".into(), "c".into()));
        assert_eq!(new(&[a, b, ("c", KEY_A)], None, None), same());
        assert_eq!(new(&[a, ("c", &renumbered)], None, None), same());
        assert_eq!(new(&[a; MAX_KEYS + 1], None, None), Err(AnchorFault::TooMany(MAX_KEYS + 1)));
        assert_eq!(new(&[a, b], Some(0), None), Err(AnchorFault::Threshold { needed: 0, keys: 2 }));
        assert_eq!(new(&[a, b], Some(3), None), Err(AnchorFault::Threshold { needed: 3, keys: 2 }));
        assert_eq!(new(&[], Some(1), None), Err(AnchorFault::Threshold { needed: 1, keys: 0 }));
        assert_eq!(new(&[], None, Some(7)), Err(AnchorFault::FloorWithoutKey));
        assert!(!new(&[], None, None).unwrap().demand_signatures());
    }

    #[test]
    fn the_floor_itself_is_high_enough() {
        let floor = Anchors::new(&[("a", KEY_A.as_bytes())], None, Some(7)).unwrap();
        assert_eq!([6, 7, 8].map(|version| floor.floor_above(version)), [Some(7), None, None]);
        assert_eq!(anchors(&[KEY_A], 1).floor_above(0), None);
    }

    #[test]
    fn a_keys_number_is_the_one_that_minisign_prints() {
        let key = Key::parse(KEY_A).unwrap();
        assert_eq!(key.id(), A);
        assert!(KEY_A.contains(&key.id().to_string()));
        assert_eq!(Key::parse(key.as_str()), Some(key));
        assert_eq!(KeyId::try_from(A.to_string()), Ok(A));
        let told: Vec<_> = signatures(BY_B.as_bytes()).iter().map(|s| (s.key, s.comment().to_owned())).collect();
        assert_eq!(told, [(B, "signed by b".to_owned())]);
    }
}
