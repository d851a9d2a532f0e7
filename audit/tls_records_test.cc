#include "audit/tls_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nova::audit {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;

constexpr int kPort = 7401;
constexpr std::uint32_t kClientFirst = 1000;
constexpr std::uint32_t kServerFirst = 9000;
const TcpEnd kClient{.address = "\x7f\0\0\1"s, .port = 50000};
const TcpEnd kServer{.address = "\x7f\0\0\1"s, .port = kPort};

std::string Record(int type, std::string_view fragment) {
  std::string record = {static_cast<char>(type), 3, 3, static_cast<char>(fragment.size() >> 8),
                        static_cast<char>(fragment.size() & 0xff)};
  return record.append(fragment);
}

std::string Hello() { return Record(22, "\1 a ClientHello"); }
std::string Data(std::size_t size = 40) { return Record(23, std::string(size, 'x')); }

// A conversation, as segments of a capture.
class Talk {
 public:
  TlsRecords records{{kPort}};

  // The capture sees the connection from its begin.
  Talk& Begin(std::uint32_t client_first = kClientFirst) {
    client_next_ = client_first + 1;
    records.Add({.from = kClient, .to = kServer, .sequence = client_first, .syn = true});
    records.Add({.from = kServer, .to = kClient, .sequence = kServerFirst, .syn = true, .ack = true});
    return *this;
  }
  Talk& Client(std::string_view payload) {
    records.Add({.from = kClient, .to = kServer, .sequence = client_next_, .ack = true, .payload = payload});
    client_next_ += static_cast<std::uint32_t>(payload.size());
    return *this;
  }
  // Out of turn: `offset` bytes after the begin of the connection.
  Talk& ClientAt(std::uint32_t offset, std::string_view payload, std::uint32_t first = kClientFirst) {
    records.Add({.from = kClient, .to = kServer, .sequence = first + 1 + offset, .ack = true, .payload = payload});
    return *this;
  }
  Talk& Server(std::string_view payload) {
    records.Add({.from = kServer, .to = kClient, .sequence = server_next_, .ack = true, .payload = payload});
    server_next_ += static_cast<std::uint32_t>(payload.size());
    return *this;
  }
  Talk& ClientEnds() {
    records.Add({.from = kClient, .to = kServer, .sequence = client_next_, .ack = true, .fin = true});
    return *this;
  }
  TlsRecords::Port Seen() const { return records.Seen(kPort); }

 private:
  std::uint32_t client_next_ = kClientFirst + 1;
  std::uint32_t server_next_ = kServerFirst + 1;
};

TEST(TlsRecords, CountsWhatATlsConnectionCarries) {
  Talk talk;
  talk.Begin().Client(Hello()).Server(Record(22, "\2 a ServerHello") + Record(20, "\1") + Data()).Client(Data());
  const auto seen = talk.ClientEnds().Seen();
  EXPECT_TRUE(seen.AllTls()) << seen.broken << seen.undecided;
  EXPECT_EQ(seen.connections, 1);
  EXPECT_EQ(seen.joined, 0);
  EXPECT_EQ(seen.client_hellos, 1);
  EXPECT_EQ(seen.records, 5U);
  EXPECT_EQ(seen.bytes, Hello().size() + 2 * Data().size() + 20U + 6U);
}

TEST(TlsRecords, RecordsMayBeginAnywhereInASegment) {
  Talk talk;
  talk.Begin();
  for (const char byte : Hello() + Data() + Data()) talk.Client({&byte, 1});
  EXPECT_TRUE(talk.Seen().AllTls());
  EXPECT_EQ(talk.Seen().records, 3U);
}

TEST(TlsRecords, ReorderedRepeatedAndOverlappingSegmentsMakeOneStream) {
  const std::string all = Hello() + Data(300) + Data(200);
  const std::string_view view = all;
  Talk talk;
  talk.Begin()
      .ClientAt(100, view.substr(100, 50))  // early
      .ClientAt(100, view.substr(100, 80))  // and more of it
      .ClientAt(0, view.substr(0, 60))
      .ClientAt(0, view.substr(0, 60))    // again
      .ClientAt(40, view.substr(40, 70))  // old and new
      .ClientAt(170, view.substr(170));
  const auto seen = talk.Seen();
  EXPECT_TRUE(seen.AllTls()) << seen.broken << seen.undecided;
  EXPECT_EQ(seen.bytes, all.size());
  EXPECT_EQ(seen.records, 3U);
}

TEST(TlsRecords, SequenceNumbersBeginAnewInTheMiddle) {
  const std::uint32_t first = 0xffffffff - 20;
  const std::string all = Hello() + Data(300);
  Talk talk;
  talk.Begin(first).ClientAt(30, std::string_view(all).substr(30), first).ClientAt(0, all.substr(0, 30), first);
  EXPECT_TRUE(talk.Seen().AllTls()) << talk.Seen().broken << talk.Seen().undecided;
  EXPECT_EQ(talk.Seen().bytes, all.size());
}

TEST(TlsRecords, BytesThatAreNotInTheCaptureDecideNothing) {
  Talk talk;
  talk.Begin().Client(Hello()).ClientAt(5000, Data());
  EXPECT_FALSE(talk.Seen().AllTls());
  EXPECT_EQ(talk.Seen().broken, "");
  EXPECT_EQ(talk.Seen().undecided, "bytes of a connection are not in the capture");
}

TEST(TlsRecords, PlaintextInTheMiddleIsSeen) {
  Talk talk;
  talk.Begin().Client(Hello()).Server(Data()).Client(Data()).Client("GET / HTTP/1.1\r\n").Client(Data());
  EXPECT_FALSE(talk.Seen().AllTls());
  EXPECT_EQ(talk.Seen().broken, "after 2 records come the bytes 474554202f, which begin none");
}

TEST(TlsRecords, PlaintextOfTheServerIsSeen) {
  Talk talk;
  talk.Begin().Client(Hello()).Server("\0\0\0\4\0\0\0\0\0"s);
  EXPECT_THAT(talk.Seen().broken, HasSubstr("after 0 records come the bytes 0000000400"));
}

TEST(TlsRecords, TheFirstRecordOfAClientIsItsHello) {
  Talk data;
  data.Begin().Client(Data());
  EXPECT_EQ(data.Seen().broken, "its first record is no handshake");
  Talk other;
  other.Begin().Client(Record(22, "\2 what servers say"));
  EXPECT_EQ(other.Seen().broken, "its first record is no ClientHello");
  EXPECT_EQ(other.Seen().client_hellos, 0);
}

TEST(TlsRecords, OnlyWhatTlsAllowsIsARecord) {
  for (const std::string& bytes : {"\x13\3\3\0\1"s, "\x19\3\3\0\1"s, "\x17\2\3\0\1"s, "\x17\3\2\0\1"s, "\x17\3\4\0\1"s,
                                   "\x17\3\3\x41\1"s, "\x17\3\3\0\0"s}) {
    Talk talk;
    talk.Begin().Client(Hello()).Server(bytes);
    EXPECT_NE(talk.Seen().broken, "") << testing::PrintToString(bytes);
  }
  Talk longest;
  longest.Begin().Client(Hello()).Server(Data((1 << 14) + 256));
  EXPECT_TRUE(longest.Seen().AllTls());
}

TEST(TlsRecords, AnOpenConnectionMayEndWithinARecordAndAClosedOneMayNot) {
  Talk talk;
  talk.Begin().Client(Hello()).Client(Data().substr(0, 20));
  EXPECT_TRUE(talk.Seen().AllTls()) << talk.Seen().broken;
  EXPECT_EQ(talk.Seen().records, 1U);
  talk.ClientEnds();
  EXPECT_EQ(talk.Seen().broken, "a connection was closed within a record");

  Talk header;
  header.Begin().Client(Hello()).Client(Data().substr(0, 3)).ClientEnds();
  EXPECT_EQ(header.Seen().broken, "a connection was closed within a record");
}

TEST(TlsRecords, APortWithoutAClientHelloProvesNothing) {
  Talk talk;
  talk.Client(Data()).Server(Data());
  const auto seen = talk.Seen();
  EXPECT_EQ(seen.joined, 1);
  EXPECT_EQ(seen.records, 2U);
  EXPECT_EQ(seen.broken + seen.undecided, "");
  EXPECT_FALSE(seen.AllTls());
  EXPECT_FALSE(Talk().Seen().AllTls());
}

TEST(TlsRecords, AJoinedConnectionIsReadFromTheFirstRecordThatASegmentBeginsWith) {
  Talk talk;
  talk.Client("the rest of a record").Client(Data()).Client(Data()).Server(Data());
  EXPECT_EQ(talk.Seen().broken + talk.Seen().undecided, "");
  EXPECT_EQ(talk.Seen().skipped, 20U);
  EXPECT_EQ(talk.Seen().records, 3U);
  // From there on there is no second chance.
  talk.Client("plaintext");
  EXPECT_NE(talk.Seen().broken, "");
}

TEST(TlsRecords, AJoinedConnectionWithoutARecordIsNotTls) {
  Talk talk;
  talk.Client(std::string(10'000, 'p'));
  EXPECT_EQ(talk.Seen().undecided, "10000 bytes of a connection that is older than the capture");
  EXPECT_FALSE(talk.Seen().AllTls());
  talk.Client(std::string(10'000, 'p'));
  EXPECT_EQ(talk.Seen().broken, "20000 bytes without the begin of a record");
}

TEST(TlsRecords, EndsThatAreUsedAgainMakeAnotherConnection) {
  Talk talk;
  talk.Begin().Client(Hello()).Client(Data()).ClientEnds();
  talk.Begin(77'000).Client("plaintext");
  const auto seen = talk.Seen();
  EXPECT_EQ(seen.connections, 2);
  EXPECT_EQ(seen.client_hellos, 1);
  EXPECT_NE(seen.broken, "");
  // A repeated SYN is none.
  Talk repeated;
  repeated.Begin().Client(Hello());
  repeated.records.Add({.from = kClient, .to = kServer, .sequence = kClientFirst, .syn = true});
  EXPECT_EQ(repeated.Seen().connections, 1);
  EXPECT_TRUE(repeated.Seen().AllTls());
}

TEST(TlsRecords, OtherPortsAreNotLookedAt) {
  TlsRecords records({kPort});
  const TcpEnd other{.address = kServer.address, .port = 80};
  records.Add({.from = kClient, .to = other, .sequence = 1, .payload = "GET / HTTP/1.1\r\n"});
  EXPECT_EQ(records.Seen(80).bytes, 0U);
}

// Addresses and ports of the two ends, a TCP header without options, "hello".
std::string Ipv4Frame() {
  return std::string(12, '\0') + "\x08\x00"s + "\x45\0\0\x2d\0\1\x40\0\x40\6\0\0\x7f\0\0\1\x7f\0\0\1"s +
         "\xc3\x50\x1c\xe9\0\0\3\xe9\0\0\0\0\x50\x18\0\0\0\0\0\0"s + "hello";
}

TEST(ReadFrame, Ipv4) {
  // What pads a short frame is not payload.
  const std::string frame = Ipv4Frame() + std::string(6, '\0');
  const auto segment = ReadFrame(frame);
  ASSERT_TRUE(segment.ok()) << segment.error().ToString();
  EXPECT_EQ(segment->from, kClient);
  EXPECT_EQ(segment->to, kServer);
  EXPECT_EQ(segment->sequence, 1001U);
  EXPECT_EQ(segment->payload, "hello");
  EXPECT_TRUE(segment->ack);
  EXPECT_FALSE(segment->syn || segment->fin || segment->rst);
}

TEST(ReadFrame, Ipv6) {
  const std::string address = std::string(15, '\0') + "\1";
  const std::string frame = std::string(12, '\0') + "\x86\xdd"s + "\x60\0\0\0\0\x1d\6\x40"s + address + address +
                            "\xc3\x50\x1c\xe9\0\0\3\xe9\0\0\0\0\x80\x01\0\0\0\0\0\0"s + "\1\1\1\1\1\1\1\1\1\1\1\1";
  // The options reach beyond the packet's nine bytes of them.
  EXPECT_FALSE(ReadFrame(frame).ok());
  std::string whole = frame;
  whole[14 + 5] = 0x20;
  const auto segment = ReadFrame(whole);
  ASSERT_TRUE(segment.ok()) << segment.error().ToString();
  EXPECT_EQ(segment->to, (TcpEnd{.address = address, .port = kPort}));
  EXPECT_EQ(segment->payload, "");
  EXPECT_TRUE(segment->fin);
}

TEST(ReadFrame, WhatIsNotWholeIsNotRead) {
  const std::string frame = Ipv4Frame();
  for (std::size_t size = 0; size < frame.size(); ++size) EXPECT_FALSE(ReadFrame(frame.substr(0, size)).ok()) << size;
  std::string fragment = frame;
  fragment[14 + 6] = 0x20;  // more of it follows
  EXPECT_FALSE(ReadFrame(fragment).ok());
  std::string udp = frame;
  udp[14 + 9] = 17;
  EXPECT_FALSE(ReadFrame(udp).ok());
}

}  // namespace
}  // namespace nova::audit
