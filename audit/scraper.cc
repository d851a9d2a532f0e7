#include "audit/scraper.h"

#include "audit/tcp.h"

namespace nova::audit {
namespace {

constexpr Duration kScrapeLimit = std::chrono::seconds(2);

}  // namespace

Result<std::string> Scraper::Get(const ServiceTarget& service, const std::string& path) {
  NOVA_TRY(const HostPort admin, ParseTarget(service.admin_target));
  auto answer = runtime_.RunBlocking<http::Response>(
      kScrapeLimit, [&](runtime::Call& call) { return http_.Get(call, admin.host, admin.port, path); });
  if (!answer) return Error(answer.error()).WithContext(path + " of " + service.name);
  return std::move(answer->body);
}

Result<Exposition> Scraper::Scrape(const ServiceTarget& service) {
  NOVA_TRY(const std::string text, Get(service, "/metrics"));
  return Exposition::Parse(text);
}

Result<Scraper::Scrapes> Scraper::ScrapeAll() {
  Scrapes scrapes;
  for (const ServiceTarget& service : config_.services) {
    NOVA_TRY(Exposition scraped, Scrape(service));
    scrapes.emplace(service.name, std::move(scraped));
  }
  return scrapes;
}

}  // namespace nova::audit
